"""``python -m robust_stitching train …``: the commands where no script is on the path."""

from robust_stitching.command_line import calling, console

if __name__ == "__main__":
    console.main(calling.MODULE)
