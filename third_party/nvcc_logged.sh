#!/bin/sh
# nvcc_logged.sh LOG COMMAND...: the compiler's report of registers, stack and spills goes to LOG; it is shown only when the command fails.
log=$1
shift
"$@" >"$log" 2>&1 || { status=$?; grep -v '^ptxas info' "$log" >&2; exit $status; }
