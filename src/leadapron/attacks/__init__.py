"""What an attacker does: triggers, poisoning, backdoors edited into weights, decoys."""
