"""What people see: containers, buttons, forms and sentences. Event loop only."""
