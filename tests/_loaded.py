"""What the processes of tests.dying need, loaded once."""

# ruff: noqa: F401
import alembic.operations
import optuna.storages
import sqlalchemy.dialects.sqlite

import genopt.cli.work
import genopt.console
import genopt.report
import genopt.runner
import tests.dying
import tests.toy
