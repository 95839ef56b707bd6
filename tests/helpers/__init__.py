"""What several tests share: sample molecules and stores, ranks, simulated runs, a fake device."""
