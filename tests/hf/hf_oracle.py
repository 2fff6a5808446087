"""Loss, logits and gradients of a transformers Llama by autograd, with attention written out from its definition.

Scores for every (query, key) pair, an explicit boolean mask, softmax, times V. The mask of shifted sparse attention comes from boundary
lists; nothing here shares code with the program under test.
"""
import torch
from transformers import AttentionInterface


def interval_start(t, tokens, first, group):
    """Start of the interval holding t, for the boundaries {0} U {first + k group < tokens} U {tokens}."""
    bounds = [0] + [b for b in range(first, tokens, group) if b > 0] + [tokens]
    return max(b for b in bounds if b <= t)


def allowed_mask(heads, tokens, kind, group):
    """[heads, tokens, tokens] bool: may query t (row) see key u (column)?"""
    mask = torch.zeros(heads, tokens, tokens, dtype=torch.bool)
    for h in range(heads):
        first = group if h < heads // 2 else group // 2
        for t in range(tokens):
            start = 0 if kind == "full" else interval_start(t, tokens, first, group)
            mask[h, t, start:t + 1] = True
    return mask


def use_attention(model, kind, group):
    """Makes `model` attend with the mask above."""
    masks = {}

    def attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        _, heads, tokens, size = query.shape
        if (heads, tokens) not in masks:
            masks[heads, tokens] = allowed_mask(heads, tokens, kind, group)
        kv_head = torch.arange(heads) // (heads // key.shape[1])
        scores = query @ key[:, kv_head].transpose(2, 3) / size ** 0.5
        p = torch.softmax(scores.masked_fill(~masks[heads, tokens], float("-inf")), dim=-1)
        return (p @ value[:, kv_head]).transpose(1, 2).contiguous(), p

    AttentionInterface.register("oracle", attention)
    model.config._attn_implementation = "oracle"


def run(model, ids, labels):
    """ids, labels [B, T]; labels[t] is the target AT position t, -100 ignored.

    Returns (nll sum, logits, {parameter: gradient of the mean})."""
    logits = model(input_ids=ids).logits
    keep = labels != -100
    log_p = torch.log_softmax(logits.float(), -1)
    nll = -log_p.gather(-1, labels.clamp_min(0)[..., None])[..., 0][keep].double().sum()
    (nll / int(keep.sum())).backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[name.removeprefix("base_model.model.").replace(".default", "").replace(".base_layer", "")] = parameter.grad
    return nll.item(), logits.detach(), gradients
