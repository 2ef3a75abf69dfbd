#!/bin/sh
# The wrapper that people write: fail the health check, sleep, kill.
# wrapper.sh ADMIN ENVOY [ARGS]...
admin=$1
shift
"$@" &
envoy=$!
trap 'curl -s -X POST "http://$admin/healthcheck/fail"; sleep 15; kill "$envoy"' TERM
wait "$envoy" # until the trap interrupts it
wait "$envoy"
