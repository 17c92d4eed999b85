"""Verifies the audit log in an SQLite file of keyward: python3 verify.py FILE [NUMBER:HASH]"""

import hashlib, sqlite3, struct, sys


def value(v):
    if v is None:
        return b"\x00"
    if isinstance(v, int):
        return b"\x01" + struct.pack(">q", v)
    text = v.encode()
    return b"\x02" + struct.pack(">Q", len(text)) + text


def wrong(number, what):
    sys.exit(f"audit entry {number} {what}")


db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
db.execute("BEGIN")
number, last, head, head_hash = db.execute("SELECT anchor, anchor_hash, head, head_hash FROM audit_chain").fetchone()
noted = dict([sys.argv[2].split(":")]) if len(sys.argv) > 2 else {}
count = 0
for row in db.execute(
    "SELECT n, version, at, event, alert, outcome, actor, actor_email, user_id, token_id, client_ip, request_id,"
    " refusal, reason, count, hash FROM audit ORDER BY n"
):
    n, version, *others, stored = row
    if n != number + 1:
        wrong(number + 1, "is missing")
    last = hashlib.sha256(last + b"".join(map(value, [version, n, *others]))).digest()
    if version != 1 or last != stored:
        wrong(n, "was altered")
    if noted.get(str(n), last.hex()) != last.hex():
        wrong(n, "is not the one that was noted")
    number, count = n, count + 1
if (number, last) != (head, head_hash):
    wrong(min(number, head) + 1, "is not where the chain ends")
print(f"{count} entries, {number}:{last.hex()}")
