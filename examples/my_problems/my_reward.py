"""A reward of one's own: agreement with the majority, and a little less for longer responses."""

LONGEST = 200  # characters


def agree_and_be_brief(answers, label, responses, truth):
    """One prompt's rewards [n], in [-0.1, 1].

    answers [n]: texts, None where a response has no answer. label: the majority's answer, None without one.
    responses [n]: texts. truth: the known answer; None here, since these problems have none.
    """
    agrees = [float(label is not None and answer == label) for answer in answers]
    return [reward - 0.1 * min(len(text), LONGEST) / LONGEST for reward, text in zip(agrees, responses)]
