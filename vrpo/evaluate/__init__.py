"""Judging a policy against its reference policy on held-out prompts."""
