"""Operating the platform: the local stack and the `dmp` command. Business rules and stores may not live here."""
