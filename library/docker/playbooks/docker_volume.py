"""A volume."""


def create(op):
    name = op.inputs["name"]
    found = op.inspect("volume", name)
    if found is None:
        op.docker("volume", "create", *op.labels(), name)
        op.changed = True
    else:
        op.must_be_ours("volume", name, found.get("Labels"))
    return {}


def delete(op):
    name = op.inputs["name"]
    if op.inputs.get("removal") != "delete":
        return {}
    found = op.inspect("volume", name)
    if found is not None and op.is_ours(found.get("Labels")):
        op.docker("volume", "rm", name)
        op.changed = True
    return {}
