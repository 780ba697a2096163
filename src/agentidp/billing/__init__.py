"""Plans for money: checkout, Stripe's webhook, the customer portal, and what an organization uses."""
