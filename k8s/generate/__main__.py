"""Make what is made: `python -m k8s.generate`, or `make chart`."""

from rich.console import Console

from k8s.generate.files import files


def main() -> None:
    """Write every file that differs, and say which."""
    console = Console()
    for file, text in files():
        if not file.exists() or file.read_text() != text:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            console.print(f"made {file}", soft_wrap=True)


if __name__ == "__main__":
    main()
