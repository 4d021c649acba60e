#!/bin/sh
# What a story's machine starts instead of QEMU. The story's directory holds a
# link to this file, so that no test writes a file that it then executes: a
# child of another thread could still hold it open for writing ("text file
# busy").
#
# Descriptors 3 to 6 are what QEMU gets: console, agent port, monitor, trace
# port. The player finds the first three as its standard error, input and output,
# where a program can take them without `unsafe`. A guest that is restored reads
# its state from 7. One that runs a command has its ports there, 7 and 8, and is
# never restored.

dir=${0%/*}
start=0
until mkdir "$dir/start.$start" 2>/dev/null; do start=$((start + 1)); done

# Sets $player, $traced and $shell, and does what the story wants done before the machine begins.
. "$dir/prelude.sh"

case " $* " in
*" -incoming "*) export RESTORED=1 ;;
esac
# The player has no more standard descriptors; what it writes to a pipe of this
# name goes to the trace port.
if [ -n "$traced" ]; then
    mkfifo "$dir/trace.$start"
    { cat "$dir/trace.$start" >&6; : >"$dir/trace.$start.sent"; } &
fi
# The same for the output of a command, which is the player's to write.
if [ -n "$shell" ]; then
    mkfifo "$dir/output.$start"
    { cat "$dir/output.$start" >&7; : >"$dir/output.$start.sent"; } &
fi
export STORY="$dir/story.json" START="$start"
exec "$player" qemu::plays --exact --nocapture <&4 >&5 2>&3 3>&- 4>&- 5>&-
