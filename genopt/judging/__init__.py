"""Whether a judge can be trusted, what people say, and what judges say of winner and baseline. Each file is a step of
its own; nothing is gathered here."""
