"""Run pip-audit, and distinguish "no known vulnerabilities" from "not audited".

pip-audit itself also succeeds if it could audit nothing, because there is no network or the index
has no data on vulnerabilities.
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
        if "ConnectionError" not in audit.stderr:  # the network is not the reason
            sys.exit(audit.stderr or "pip-audit has printed nothing")
        packages = []
    audited = [package for package in packages if "skip_reason" not in package]
    vulnerable = [package for package in audited if package["vulns"]]
    print(
        f"{len(audited)} of {len(packages)} packages audited,"
        f" {len(vulnerable)} with known vulnerabilities"
    )
    for package in vulnerable:
        print(package["name"], package["version"], [vuln["id"] for vuln in package["vulns"]])
    if not audited:
        print("NOT AUDITED: the data of pip-audit cannot be reached from here")
    sys.exit(bool(vulnerable))


if __name__ == "__main__":
    main()
