"""The platform on one machine: PostgreSQL, Redis, keys, certificates and the service processes of `dmp run`, of the
tests and of the benchmarks. Nothing here is used in production, and no service imports it.

Life of a start (`stack.Stack`): lock the state directory, choose ports, make what is missing of the keys and
certificates, start PostgreSQL and Redis, create databases and roles, migrate, start the services, wait until each one
answers its health check. A stop goes the other way.
"""
