# docker build -t reelseek .
# docker run --rm -p 127.0.0.1:8787:8787 -e REELSEEK_TOKEN=... -v ~/Videos:/videos:ro -v reelseek:/data reelseek
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p reelseek

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ffmpeg ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/reelseek /usr/local/bin/reelseek
RUN useradd --system --create-home --home-dir /data reelseek
USER reelseek
VOLUME /data
ENV REELSEEK_INDEX=/data/index REELSEEK_CACHE=/data/cache
EXPOSE 8787
# Within a container every address is another machine's: REELSEEK_TOKEN must be set.
ENTRYPOINT ["reelseek"]
CMD ["serve", "--listen", "0.0.0.0:8787", "/videos"]
HEALTHCHECK --start-period=30s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8787 && printf 'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && grep -q '^HTTP/1.1 200' <&3"]
