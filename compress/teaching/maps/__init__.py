"""The outputs of a teacher's network on fixed views of the pictures, in a store on disk."""
