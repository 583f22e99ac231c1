# pgshunt alone: the nodes are PostgreSQL's own images (docker-compose.yml).

FROM rust:1-bookworm AS build
# The bindings of PostgreSQL's parser are generated from its C headers.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libclang-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN useradd --system --no-create-home --shell /usr/sbin/nologin pgshunt
COPY --from=build /src/target/release/pgshunt /usr/local/bin/pgshunt
COPY config/pgshunt.toml /etc/pgshunt/pgshunt.toml
USER pgshunt
EXPOSE 6432 9632
# Open transactions finish first.
STOPSIGNAL SIGTERM
ENTRYPOINT ["pgshunt"]
CMD ["serve", "--config", "/etc/pgshunt/pgshunt.toml"]
