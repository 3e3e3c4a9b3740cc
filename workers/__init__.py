"""The controller, which runs jobs on Ray, and the actors that run their stages."""
