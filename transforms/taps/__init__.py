"""`[[taps]]`: which activations of the model are computed, and how they are reduced."""
