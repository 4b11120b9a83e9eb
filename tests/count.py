# SPDX-License-Identifier: LGPL-2.1-or-later
"""Adds up JUnit results: count.py ALREADY_FAILED FILE... A skipped test is a failed one."""

import sys
import xml.etree.ElementTree as ET


def main():
    passed, failed = 0, int(sys.argv[1])
    for path in sys.argv[2:]:
        try:
            cases = list(ET.parse(path).getroot().iter("testcase"))
        except (OSError, ET.ParseError) as error:
            print(f"{path}: {error}")
            failed += 1
            continue
        for case in cases:
            bad = [case.find(kind) is not None for kind in ("failure", "error", "skipped")]
            if any(bad):
                failed += 1
                print(f"FAILED: {case.get('classname')} {case.get('name')}")
            else:
                passed += 1
        if not cases:
            print(f"{path}: no test ran")
            failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
