"""Sends notifications about a training to webhooks and, through apprise, to chats and mail; never blocks the caller."""
