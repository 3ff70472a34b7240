"""How one tensor is quantised: the contract, a small file a method, their table. Imports no other room."""
