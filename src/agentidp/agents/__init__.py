"""The principals: registering agents, changing them, stopping them."""
