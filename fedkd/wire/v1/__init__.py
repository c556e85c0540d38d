"""Generated from protos/fedkd/wire/v1; not to be edited."""
