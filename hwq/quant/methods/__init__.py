"""How one tensor is quantised: the contract, one small file a method, and their table. Imports no other room."""
