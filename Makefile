# The two commands of the README, and a few for those who work on pgshunt.

.PHONY: help demo test versions setup check bench counts compare clean

help: ## what there is
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'

demo: setup ## three PostgreSQL nodes, pgshunt, live traffic, a shard that moves (ARGS="--keep")
	cargo build --release
	target/release/pgshunt demo $(ARGS)

test: ## all tests, against real PostgreSQL servers (ARGS="filter")
	@scripts/setup --tests
	scripts/test $(ARGS)

versions: ## moves, routing, DDL, attacks and protocol on PostgreSQL 14, 16, 17 and 18 (ARGS="17")
	@scripts/setup --tests
	scripts/versions $(ARGS)

setup: ## installs the system packages that building and the demo lack, and says which
	@scripts/setup

check: ## format and lints
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

bench: ## the micro-benchmarks
	cargo bench

counts: ## instructions per query beside those accepted (ARGS=--accept takes those of now)
	cargo bench --quiet --profile counts --bench counts -- $(or $(ARGS),--compare)

compare: ## CPU per query beside PgBouncer and HAProxy, in one run
	@scripts/setup --compare
	benches/compare/run $(ARGS)

clean: ## what was built, and the templates of the local nodes
	cargo clean
	rm -rf /dev/shm/pgshunt-*/template* "$${TMPDIR:-/tmp}"/pgshunt-*/template*
