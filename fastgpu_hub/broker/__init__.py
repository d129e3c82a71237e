"""Use cases over pricing and scheduling: leases, jobs, rules, reports. Reaches the world through ports."""
