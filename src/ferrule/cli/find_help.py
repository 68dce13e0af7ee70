"""What ``ferrule find --help`` prints."""

HELP = """\
usage: ferrule find [-H | -L | -P] [-j N] [path ...] [expression]

Walks the directories (default: the current one) and evaluates the expression for each entry, the
outer ones first; default action -print.

operators, the closest first:  ( E )   ! E, -not E   E E, E -a E   E -o E   E , E

tests (n: a number, +n more, -n less)
  -name -iname -path -ipath -lname -ilname PATTERN    -regex -iregex REGEX, -regextype TYPE
  -type -xtype bcdpfls    -size n[cwbkMGTP]    -empty    -links n  -inum n  -samefile FILE
  -amin -cmin -mmin -atime -ctime -mtime n    -used n
  -newer -anewer -cnewer FILE    -newerXY FILE|TIME  (a c m B, and for Y also t)
  -perm [-/]MODE    -readable -writable -executable    -user -group NAME    -uid -gid n
  -nouser -nogroup    -fstype TYPE    -hidden    -true    -false

actions
  -print -print0 -printf FORMAT -ls    -fprint -fprint0 -fls FILE    -fprintf FILE FORMAT
  -exec -execdir -ok -okdir COMMAND ;    -exec -execdir COMMAND {} +    -delete    -prune    -quit

options among the tests
  -maxdepth -mindepth N    -depth    -xdev    -follow    -daystart    -files0-from FILE
  -[no]ignore_readdir_race    -[no]warn    -noleaf

options
  -H -L -P     follow links given as paths; all; none (the default)
  -j N         so many workers (default: the processors, up to 8)
  --json       print a line of JSON for each entry
  --sorted     the entries of each directory by name
  --stat       say at the end what was done and how long it took
  -color -nocolor   (default: on a terminal, with LS_COLORS)

docs/find.md explains them all.
"""
