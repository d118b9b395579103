#!/usr/bin/env python3
"""Load on `reelseek serve` by clients that behave badly, on Linux and the loopback address.

    python3 benches/serve_load.py readers target/release/reelseek --count 2000 --files 4096
    python3 benches/serve_load.py bodies target/release/reelseek --seconds 60

`readers` opens many connections that request a response and read nothing of it, then measures small searches,
each over its own connection. `bodies` sends bodies of 25 MB for a while, then measures the resident memory of
the server. Both make a small library with ffmpeg. They need Python 3 and no packages.
"""

import argparse
import json
import os
import re
import resource
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

BODY_BYTES = 25_000_000
VECTOR = json.dumps({"vector": [1.0 if i % 7 == 0 else 0.1 for i in range(128)], "top": 2}).encode()


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Server:
    """A server on a library of one large video and one small video."""

    def __init__(self, program, folder, files=None):
        videos, index = os.path.join(folder, "videos"), os.path.join(folder, "index")
        environment = dict(os.environ, REELSEEK_INDEX=index, REELSEEK_CACHE=os.path.join(folder, "cache"))
        environment.pop("REELSEEK_TOKEN", None)
        if not os.path.exists(videos):
            os.mkdir(videos)
            noise = "nullsrc=s=640x360:r=25,geq=random(1)*255:128:128"
            for source, seconds, name in [(noise, 20, "large.mp4"), ("testsrc2=s=320x180:r=10", 12, "small.mp4")]:
                made = os.path.join(videos, name)
                run("ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-t", str(seconds), "-c:v", "libx264",
                    "-preset", "ultrafast", "-crf", "18", "-pix_fmt", "yuv420p", made)
            subprocess.run([program, "index", videos], check=True, env=environment, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)

        def limit():
            if files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        self.log = open(os.path.join(folder, "log"), "w+")
        self.process = subprocess.Popen([program, "serve", "--listen", "127.0.0.1:0"], env=environment, preexec_fn=limit,
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        address = self.process.stdout.readline().strip().removeprefix("listening on http://")
        host, port = address.rsplit(":", 1)
        self.address = (host, int(port))

    def stop(self):
        self.process.kill()
        self.process.wait()

    def json(self, path):
        with urllib.request.urlopen("http://%s:%d%s" % (*self.address, path), timeout=60) as answer:
            return json.load(answer)

    def status(self, name):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(name + r":\s+(\d+)", status.read())[1])

    def resident_mb(self):
        return self.status("VmRSS") // 1024

    def peak_mb(self):
        return self.status("VmHWM") // 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def search(self, body=VECTOR, kind="application/json", timeout=30):
        """Seconds of a search over its own connection, and its status; 0 if the connection failed."""
        start, status = time.monotonic(), 0
        try:
            with socket.create_connection(self.address, timeout=timeout) as connection:
                connection.sendall(request("POST", "/v1/search", f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"))
                try:
                    connection.sendall(body)
                except OSError:
                    pass  # The server may have answered before it has read the body.
                answer = connection.recv(4096)
                status = int(answer[9:12] or 0)
        except (OSError, ValueError):
            pass
        return time.monotonic() - start, status


def request(method, path, headers=""):
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n".encode()


def searches(server, seconds, pause=0.05):
    """Small searches for a while; prints how many were answered, and how fast."""
    times, failed, end = [], 0, time.monotonic() + seconds
    while time.monotonic() < end:
        took, status = server.search()
        times.append(took)
        failed += status != 200
        time.sleep(pause)
    times.sort()
    print(f"  searches: {len(times)}, not answered with 200: {failed}, median {times[len(times) // 2] * 1000:.0f} ms, "
          f"slowest {times[-1] * 1000:.0f} ms")


def readers(options, folder):
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    server = Server(options.program, folder, options.files)
    try:
        large = next(v["video"] for v in server.json("/v1/videos")["videos"] if v["name"] == "large.mp4")
        path = options.path or f"/v1/media/{large}"
        print(f"before: {server.descriptors()} descriptors, {server.resident_mb()} MB")
        standing, start = [], time.monotonic()
        flood = threading.Thread(target=searches, args=(server, 5)) if options.during else None
        if flood:
            flood.start()
        for _ in range(options.count):
            connection = socket.socket()
            connection.settimeout(10)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            try:
                connection.connect(server.address)
                connection.sendall(request("GET", path))
            except OSError:
                pass
            standing.append(connection)
        print(f"{len(standing)} readers of {path} that stand still, opened in {time.monotonic() - start:.1f} s")
        if flood:
            flood.join()
        for _ in range(3):
            print(f"  {server.descriptors()} descriptors, {server.resident_mb()} MB")
            searches(server, options.seconds / 3)
        print(f"after {options.seconds:.0f} s: {server.descriptors()} descriptors, peak {server.peak_mb()} MB")
        server.log.seek(0)
        print(f"log lines about failed accepts: {server.log.read().count('accept')}")
    finally:
        server.stop()


def bodies(options, folder):
    server = Server(options.program, folder)
    try:
        frame = os.path.join(folder, "frame.jpg")
        run("ffmpeg", "-v", "error", "-y", "-i", os.path.join(folder, "videos/small.mp4"), "-frames:v", "1", "-vf",
            "scale=%s" % options.size, frame)
        with open(frame, "rb") as file:
            body = file.read().ljust(BODY_BYTES, b"\0")
        counts, end = {}, time.monotonic() + options.seconds
        print(f"before: {server.resident_mb()} MB")

        def send():
            while time.monotonic() < end:
                _, status = server.search(body, "image/jpeg")
                counts[status] = counts.get(status, 0) + 1

        threads = [threading.Thread(target=send) for _ in range(options.count)]
        for thread in threads:
            thread.start()
        searches(server, options.seconds, 0.5)
        for thread in threads:
            thread.join()
        print(f"{sum(counts.values())} bodies of 25 MB by {options.count} clients in {options.seconds:.0f} s, "
              f"by status: {counts}; peak {server.peak_mb()} MB")
        for seconds in range(0, 31, 5):
            print(f"  {seconds} s later: {server.resident_mb()} MB")
            time.sleep(5)
    finally:
        server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("load", choices=["readers", "bodies"])
    parser.add_argument("program")
    parser.add_argument("--count", type=int, help="clients: 2000 readers or 24 senders of bodies")
    parser.add_argument("--seconds", type=float, help="length of the measurement: 30 for readers, 60 for bodies")
    parser.add_argument("--files", type=int, help="limit of open files of the server")
    parser.add_argument("--path", help="what readers request; the large video by default")
    parser.add_argument("--during", action="store_true", help="measure searches also while the readers connect")
    parser.add_argument("--size", default="1920:1080", help="size of the picture in the bodies")
    options = parser.parse_args()
    load, count, seconds = {"readers": (readers, 2000, 30), "bodies": (bodies, 24, 60)}[options.load]
    options.count, options.seconds = options.count or count, options.seconds or seconds
    options.program = os.path.abspath(options.program)
    with tempfile.TemporaryDirectory() as folder:
        load(options, folder)


main()
