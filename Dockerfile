# syntax=docker/dockerfile:1
# docker build -t reelseek .          or scripts/package docker, which also tries the image
# docker run --rm -p 127.0.0.1:8787:8787 -e REELSEEK_TOKEN=... -v ~/Videos:/videos:ro -v reelseek:/data reelseek
#
# Nothing is indexed at the start: open the page and start indexing there, or run the command
# `index /videos` in the container.
# The user in the image has the number 10001. Where it may not read your videos, add: --user "$(id -u):$(id -g)" -v "$PWD/data:/data".
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# Crates and compiled dependencies stay in cache mounts: a change of a source compiles only what uses it.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --profile dist --locked -p reelseek && cp target/dist/reelseek /usr/local/bin/

FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ffmpeg ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /data reelseek
COPY --from=build /usr/local/bin/reelseek /usr/local/bin/reelseek
USER 10001
VOLUME /data
ENV REELSEEK_INDEX=/data/index REELSEEK_CACHE=/data/cache
EXPOSE 8787
# In a container every client has another address than this machine: REELSEEK_TOKEN must be set.
ENTRYPOINT ["reelseek"]
CMD ["serve", "--listen", "0.0.0.0:8787", "/videos"]
HEALTHCHECK --start-period=30s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8787 && printf 'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && grep -q '^HTTP/1.1 200' <&3"]
