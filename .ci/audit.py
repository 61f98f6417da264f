"""Run pip-audit, and tell "nothing is known" from "nothing could be asked".

pip-audit itself is content when it could ask about nothing at all, for want of a network or of an
index that knows about vulnerabilities.
"""

import json
import subprocess
import sys


def main() -> None:
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    audit = subprocess.run(command, capture_output=True, check=False, text=True)
    try:
        packages = json.loads(audit.stdout)["dependencies"]
    except ValueError:
        if "ConnectionError" not in audit.stderr:  # it has died, and not of the lack of a network
            sys.exit(audit.stderr or "pip-audit has said nothing")
        packages = []
    asked = [package for package in packages if "skip_reason" not in package]
    bad = [package for package in asked if package["vulns"]]
    print(
        f"{len(asked)} of {len(packages)} packages audited, {len(bad)} with known vulnerabilities"
    )
    for package in bad:
        print(package["name"], package["version"], [vuln["id"] for vuln in package["vulns"]])
    if not asked:
        print("NOT AUDITED: the data of pip-audit cannot be reached from here")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
