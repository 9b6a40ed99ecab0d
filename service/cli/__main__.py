"""`python -m service.cli` is `sms-gateway`."""

from service.cli import main

main()
