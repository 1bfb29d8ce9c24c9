"""FGP's importance as literally as can be: one forward and one gradient per image, class and layer, loops over channels.

Slow on purpose; the tests compare `fgp.score` with it. Not to be optimised.
"""

import copy

import torch
from torch import nn

VOID = 255


def literal_scores(
    model,
    batches,
    *,
    feature_of=None,
    form="canonical",
    normalise=None,
    target="logit",
    classes="true",
    evidence="both",
):
    """Return {layer: float64 (C_out,)}; `feature_of` names the module whose output is F where it is not the convolution's."""
    model = copy.deepcopy(model).double().eval()
    modules = dict(model.named_modules())
    scores = {}
    for name, layer in modules.items():
        if isinstance(layer, nn.Conv2d):
            read = modules[(feature_of or {}).get(name, name)]
            scores[name] = torch.zeros(layer.out_channels, dtype=torch.float64)
            for images, labels in batches:
                for n in range(len(images)):
                    image, label = images[n : n + 1].double(), labels[n]
                    for d in active_classes(model, image, label, classes):
                        f, g = feature_and_gradient(model, read, image, label, d, target, classes)
                        for c, value in enumerate(channel_sums(f, g, form, normalise, evidence)):
                            scores[name][c] += value
    return scores


def active_classes(model, image, label, classes):
    with torch.no_grad():
        logits = model(image)[0]
    predicted = logits.argmax(0)
    counted = label != VOID if label.ndim else torch.tensor(True)
    if classes == "all":
        return range(len(logits)) if counted.any() else []
    if classes == "true":
        return sorted(set(label[counted].reshape(-1).tolist()))
    if classes == "predicted":
        return sorted(set(predicted[counted].reshape(-1).tolist()))
    return sorted(set(label[counted & (predicted == label)].reshape(-1).tolist()))


def feature_and_gradient(model, read, image, label, d, target="logit", classes="true"):
    """Return F and dy/dF, (C, H, W) each, for one image and class."""
    stored = []

    def hook(_, __, output):
        output.retain_grad()
        stored.append(output)
        return output.clone()  # in-place operations behind it act on the copy

    handle = read.register_forward_hook(hook)
    image = image.clone().requires_grad_()
    logits = model(image)[0]
    handle.remove()
    predicted = logits.argmax(0)
    z = logits.softmax(0) if target == "softmax" else logits
    if label.ndim == 0:
        y = z[d]
    else:
        pixels = {
            "true": label == d,
            "all": label != VOID,
            "predicted": (predicted == d) & (label != VOID),
            "correct": (predicted == d) & (label == d),
        }[classes]
        y = z[d][pixels].sum()
    model.zero_grad()
    y.backward()
    return stored[0].detach()[0], stored[0].grad[0]


def channel_sums(f, g, form, normalise, evidence):
    sums, maps = [], []
    for c in range(len(f)):
        feature, gradient = f[c], g[c]
        alpha = gradient.mean()
        if evidence == "feature":
            alpha, gradient = torch.tensor(1.0), torch.ones_like(gradient)
        if evidence == "gradient":
            feature = torch.ones_like(feature)
        if form == "gapfirst":
            sums.append(torch.relu(alpha * feature.sum()))
        elif form == "elementwise":
            maps.append(torch.relu(gradient * feature))
        elif form == "abs":
            maps.append((alpha * feature).abs())
        else:
            maps.append(torch.relu(alpha * feature))
    most = max((heat.max() for heat in maps), default=0)
    for heat in maps:
        if normalise == "minmax_u8":
            low, high = heat.min(), heat.max()
            scaled = (heat - low) / (high - low) if high > low else torch.zeros_like(heat)
            heat = (255 * scaled).to(torch.uint8).double() / 255
        elif normalise == "jointmax" and most > 0:
            heat = heat / most
        sums.append(heat.sum())
    return sums


def randomise(model, seed=0):
    """Give every normalisation random statistics, scale and shift, so that none is an identity; return the model in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 2.0),
                    (module.weight, -0.5, 1.5),
                    (module.bias, -0.5, 0.5),
                ):
                    tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    return model.eval()


def assert_equal(fast, slow, rtol=1e-9):
    assert list(fast) == list(slow)
    for name in slow:
        scale = float(slow[name].abs().max())
        torch.testing.assert_close(
            fast[name].double(), slow[name], rtol=rtol, atol=1e-3 * rtol * scale, msg=lambda m, n=name: f"{n}: {m}"
        )
