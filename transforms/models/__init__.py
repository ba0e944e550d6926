"""`[model]`: what loads a model of any form, and knows what is inside it."""
