"""Reads the results of a run with the programs that others read such files with.

usage: read.py KUNIT JUNIT KTAP KCIDB

KUNIT is a kernel's tools/testing/kunit. What was counted is printed as JSON: for each
format how many cases are good, bad and excused. A file that is not what its format
demands ends this with an error.
"""

import json
import re
import subprocess
import sys
from collections import Counter

import junitparser
import kcidb_io


def junit(path):
    counts = Counter()
    for suite in junitparser.JUnitXml.fromfile(path):
        for case in suite:
            kinds = {type(result) for result in case.result}
            if kinds & {junitparser.Failure, junitparser.Error}:
                counts["bad"] += 1
            elif junitparser.Skipped in kinds:
                counts["excused"] += 1
            else:
                counts["good"] += 1
    return counts


def ktap(kunit, path):
    said = subprocess.run(
        [sys.executable, f"{kunit}/kunit.py", "parse", path],
        capture_output=True, text=True, check=False)
    # It says so in its last line: "Ran 3 tests: passed: 2, failed: 1".
    last = said.stdout.rstrip().rpartition("Testing complete. Ran ")[2]
    words = Counter({kind: int(n) for kind, n in re.findall(r"(\w+): (\d+)", last)})
    # What the parser does not take for KTAP is an error of its own.
    if not last or words["errors"]:
        sys.exit(said.stdout + said.stderr)
    return Counter(good=words["passed"], excused=words["skipped"],
                   bad=words["failed"] + words["crashed"])


def kcidb(path):
    with open(path, encoding="utf-8") as file:
        submission = json.load(file)
    kcidb_io.schema.V5_3.validate_exactly(submission)
    words = Counter(test["status"] for test in submission["tests"])
    return Counter(good=words["PASS"], excused=words["SKIP"],
                   bad=words["FAIL"] + words["ERROR"] + words["MISS"])


def main(kunit, junit_path, ktap_path, kcidb_path):
    counts = {"junit": junit(junit_path), "ktap": ktap(kunit, ktap_path),
              "kcidb": kcidb(kcidb_path)}
    kinds = ("good", "bad", "excused")
    print(json.dumps({name: {kind: count[kind] for kind in kinds}
                      for name, count in counts.items()}))


main(*sys.argv[1:])
