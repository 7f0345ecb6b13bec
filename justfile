# The five commands people type. `just` lists them.
_list:
    @just --list --unsorted

# Every test; no network, no model needed
test:
    cargo test

# Format and lints, as the check of a change runs them
lint:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings

# Fetch the small model, train the first recipe, show base beside adapter
quickstart *ARGS:
    cargo run --release -- train recipes/quickstart.toml {{ARGS}}

# The golden cases of the repository, or others
conform *DIRS="tests/data/golden":
    cargo run --release -- conform {{DIRS}}

# Everything that must hold before a change is done
ci:
    .ci/run
