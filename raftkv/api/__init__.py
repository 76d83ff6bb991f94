"""One module per etcd service: check, translate, reply. Above it only the command line."""
