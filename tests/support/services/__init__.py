"""The servers that tests run on: `wheels`, `docker` or `real`, all of one shape (`base.Service`).
Each session starts its own, on its own ports and in its own folder, and stops them."""
