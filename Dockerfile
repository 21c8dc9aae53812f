# The server in a container: data/ (configuration and key) and logs/ are volumes, everything else may be read-only.
FROM python:3.12-slim

WORKDIR /app
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MES_SERVER_HOST=0.0.0.0

COPY requirements.lock .
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock

COPY main.py mcp-endpoint-server.cfg LICENSE pyproject.toml README.md ./
COPY src ./src
# docker build --build-arg EXTRAS=api for the HTTP API, http for the gateway and servers by URL
ARG EXTRAS=""
RUN if [ -n "$EXTRAS" ]; then pip install --no-cache-dir --disable-pip-version-check ".[$EXTRAS]"; fi
RUN mkdir -p data logs && chown 10001:10001 data logs

USER 10001:10001
EXPOSE 8004
VOLUME ["/app/data", "/app/logs"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["python", "main.py", "check", "--alive"]

CMD ["python", "main.py"]
