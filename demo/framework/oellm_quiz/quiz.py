"""usage: quiz.py MODEL|ANSWERS WIDTH OUTPUT; writes answers without a WIDTH, else their scores."""

import json
import sys
from pathlib import Path

source, width, output = sys.argv[1:]
if Path(source).is_dir():
    config = json.loads(Path(source, "config.json").read_text())
    found = {"What are you?": config["model_type"], "How wide are you?": config["hidden_size"]}
else:
    found = json.loads(Path(source).read_text())
if width:
    solutions = {"What are you?": "llama", "How wide are you?": int(width)}
    found = {question: found[question] == answer for question, answer in solutions.items()}
    print(f"{sum(found.values())} of {len(found)} answers are right")
Path(output).write_text(json.dumps(found))
