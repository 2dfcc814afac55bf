"""`python -m refusal_plugin` is the `refusal-plugin` command."""

from .cli import main

if __name__ == "__main__":
    main()
