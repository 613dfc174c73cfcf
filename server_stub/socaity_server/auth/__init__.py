"""Who may do what: identification by API keys and tokens, and the questions to a policy decision point."""
