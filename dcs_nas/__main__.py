"""``python -m dcs_nas`` is ``dcs-nas``."""

from dcs_nas.cli import main

if __name__ == "__main__":
    main()
