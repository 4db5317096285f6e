"""Directed grading. The lines `prediction | gold | T or F` test each rule and its limits.

public_cases.txt has more lines, similar to the tests of public graders.
"""

from pathlib import Path

import pytest

CASES = r"""
33.3\% | \frac{1}{3} | T
(-\infty, 3)\cup (5, 7] | (5,7] \cup (-\infty,3) | T
x \in (-2, 1) | (-2,1) | T
-2 < x < 1 | (-2,1) | T
x \geq 5 | [5,\infty) | T
\pm\frac{3}{2} | \frac32, -\frac32 | T
-\frac32, \frac32 | \pm \frac32 | T
6.02 \times 10^{23} | 602000000000000000000000 | T
i | \sqrt{-1} | T
x=2,y=3 | (2,3) | T
(2,3) | x=2,y=3 | T
2\sqrt{2} | \sqrt{8} | T
2.828 | 2\sqrt{2} | T
2.83 | 2\sqrt{2} | T
5\,cm | 5 | T
5 \mathrm{cm} | 5 | T
5.0 cm | 5 | T
0.5 \leq x \leq 1 | [0.5,1] | T
\{1,2,3\} | \{3,2,1\} | T
\text{(A)} | A | T
(A) | A | T
A. | A | T
A) 5 | A | T
\textbf{(C) } 12 | C | T
\text{C} | (C) | T
B | (C) | F
1,000,000 | 1000000 | T
1\,000\,000 | 1000000 | T
\frac{x}{2} | 0.5x | T
2(x+1) | 2x+2 | T
x(x-1) | x^2-x | T
\frac{x^2-1}{x-1} | x+1 | T
y=2x+3 | 2x+3 | T
2x - y + 3 = 0 | y=2x+3 | T
\sqrt{x^2} | x | T
\sin^2 x + \cos^2 x | 1 | T
\frac{1}{\sqrt{2}} | \frac{\sqrt{2}}{2} | T
1/\sqrt2 | 0.7071 | T
0.7 | 1/\sqrt{2} | F
e^{\ln 3} | 3 | T
\log_3 9 | 2 | T
10\% | 0.1 | T
0.1 | 10\% | T
10 | 10\% | T
\$18.90 | 18.9 | T
18.90 dollars | \$18.90 | T
\$32,348 | 32348 | T
23 \text{ degrees} | 23^\circ | T
90° | 90 | T
\frac{\pi}{2} | 90 | F
5 | 6 | F
\frac{1}{2} | \frac{1}{3} | F
x^2+1 | x^2-1 | F
(1,2) | (2,1) | F
[0,1] | (0,1) | F
3.14159 | \pi | T
3.14 | \pi | T
3 | \pi | F
3.1 | \pi | F
0.333 | \frac13 | T
0.33 | \frac13 | F
\frac{1}{3} | 0.333 | T
1.5 | 1\frac12 | T
-1.5 | -1\frac{1}{2} | T
1 1/2 | 3/2 | T
\begin{bmatrix}1\\2\end{bmatrix} | (1,2) | T
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{bmatrix}1&2\\3&4\end{bmatrix} | T
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{bmatrix}1&3\\2&4\end{bmatrix} | F
\text{Monday} | monday | T
\text{Yes} | yes | T
\text{no} | yes | F
True | true | T
1011_2 | 1011_{2} | T
1011_2 | 1011_3 | F
2:30 PM | 14:30 | T
2:30 | 14:30 | T
5:30 | 5:30 \text{ p.m.} | T
3:4 | 3/4 | T
6:8 | 3:4 | T
5! | 120 | T
\binom{5}{2} | 10 | T
2^{10} | 1024 | T
0.\overline{3} | 1/3 | T
0.\bar{3} | \frac13 | T
.5 | 0.5 | T
\dfrac12 | \tfrac{1}{2} | T
\frac{-1}{2} | -\frac12 | T
-\frac{1}{-2} | \frac12 | T
\left(\frac{1}{2},\frac{3}{4}\right) | (0.5,0.75) | T
x=-1 \text{ or } x=2 | -1,2 | T
x = -1, x=2 | 2,-1 | T
-1 \text{ and } 2 | 2, -1 | T
n(n+1)/2 | \frac{n^2+n}{2} | T
a^2-b^2 | (a-b)(a+b) | T
\mathbb{R} | (-\infty,\infty) | T
\text{all real numbers} | (-\infty,\infty) | T
\emptyset | \{\} | T
\text{10 cm} | 10 | T
10\ \text{cm} | 10 | T
10~\text{m/s} | 10 | T
12 \text{ m}^2 | 12 | T
3.0 \times 10^8 \text{ m/s} | 3e8 | T
5 \cdot 10^{-3} | 0.005 | T
\boxed{5} | 5 | T
$5$ | 5 | T
\(5\) | 5 | T
5. | 5 | T
\text{The answer is } 5 | 5 | T
x | y | F
3x | 3y | F
\frac{3}{4}\text{ or }0.75 | \frac34 | T
\frac{3}{4} = 0.75 | \frac34 | T
\sqrt[3]{8} | 2 | T
\sqrt 2 | \sqrt{2} | T
|x| | \sqrt{x^2} | T
1 + i\sqrt{3} | 1+\sqrt{3}i | T
2e^{i\pi/3} | 1+i\sqrt{3} | T
\cos 60^\circ | \frac12 | T
\tan^{-1}(1) | \frac{\pi}{4} | T
\arctan 1 | \pi/4 | T
k\pi, k\in\mathbb{Z} | \pi k, k \in \mathbb{Z} | T
(0,1),(1,0) | (1,0),(0,1) | T
(x+1)(x+2)=0 | x^2+3x+2=0 | T
x^2+y^2=4 | y^2+x^2-4=0 | T
y=-\frac12x+3 | x+2y=6 | T
\text{three} | 3 | T
3 \text{ and } 4 | 4,3 | T
\frac{a}{b+c} | a/(b+c) | T
\frac{2}{3}\pi | \frac{2\pi}{3} | T
1.0\times 10^{1} | 10 | T
1e-05 | 0.00001 | T
100\% | 1 | T
1/0 | 5 | F
2, 3, 5 | 5, 3, 2 | T
[2,3,5] | 2,3,5 | T
12 inches | 12 | T
12" | 12 | T
6'  | 6 | T
45 mph | 45 | T
x < 3 | x > 3 | F
(3, \infty) | x>3 | T
x>3 \text{ or } x<-1 | (-\infty,-1)\cup(3,\infty) | T
x+2 | x + 2.0 | T
\infty | +\infty | T
-\infty | \infty | F
\frac{1}{x} | x^{-1} | T
3\text{rd} | 3 | T
\ldots | 5 | F
16\sqrt{3} \text{ square units} | 16\sqrt3 | T
\approx 8.24 | 8.24 | T
8.24 | \approx 8.24 \text{ mph} | T
7.5\text{ million} | 7500000 | T
f^{-1}(x) = x/2 | x/2 | T
P(x) = x^2 | x^2 | T
p(x)=x^2+1 | x^2+1 | T
\angle ABC = 30^\circ | 30 | T
a=1, b=2 | b=2, a=1 | T
\text{A and B} | A, B | T
ABC | A,B,C | F
\sqrt{2}+\sqrt{3} | \sqrt{3}+\sqrt{2} | T
\frac{\sqrt{6}-\sqrt{2}}{4} | \sin 15^\circ | T
0.2588 | \frac{\sqrt{6}-\sqrt{2}}{4} | T
10000 | 10,000.00 | T
72^{\circ} | 72^\circ | T
m=5 | 5 | T
\frac{5}{1} | 5 | T
2 \frac{1}{2} \text{ hours} | 2.5 | T
\text{2.5 hours} | 2.5 | T
2 hours | 2 | T
one half | \frac12 | F
\frac{13}{4}\pi r^2 | 3.25\pi r^2 | T
\exp(2) | e^2 | T
\log x | \ln x | F
\cot x | \frac{\cos x}{\sin x} | T
1 - \sin^2\theta | \cos^2 \theta | T
\vec{v} | v | F
3\mathbf{i}+2\mathbf{j} | 3i+2j | T
\langle 1,2\rangle | (1,2) | T
$\frac{1}{2}$ and $\frac{1}{3}$ | 1/3, 1/2 | T
12.0 | 12 | T
\overline{AB} | \overline{AB} | T
4^{x+1} | 4 \cdot 4^x | T
\lfloor 3.7 \rfloor | 3 | T
x\ge-2 | [-2, \infty) | T
5^{\circ}C | 5 | T
3 \text{ or } 5 | 3,5 | T
2 + 3i | 3i + 2 | T
(2,3) | 2,3 | T
-0 | 0 | T
1:2:3 | 2:4:6 | T
"""
# These are not in the table because they contain blanks and separators.
MORE = [
    ("", "5", False),
    (None, "5", False),
    ("  ", "5", False),
    ("|x|", "-x", False),
    ("5", "", False),
    ("5\\text{ or more}", "5", False),
    ("\\text{not } 5", "5", False),
    ("m\\angle A = 30^\\circ", "30", True),
    ("|AB| = 5", "5", True),
    ("P(X=2) = 0.3", "0.3", True),
    ("(x, y) = (1, 2)", "(1,2)", True),
    ("\\frac{dy}{dx} = 2x", "2x", True),
    ("x_1 = 1, x_2 = 2", "2, 1", True),
    ("x = \\frac13 = 0.333", "1/3", True),
    ("\\text{Final answer: } 7", "7", True),
    ("The answer is 5", "5", True),
    ("**5**", "5", True),
    ("14 \\text{ right triangles}", "14", True),
    ("5\\text{ km north}", "5\\text{ km south}", False),
    ("n \\ge 5 \\text{ odd}", "n \\ge 5 \\text{ even}", False),
    ("2sinx", "2\\cos x", False),
    ("2 \\sin x", "2sinx", True),
    ("I(0) e^{-t}", "I(0) e^{t}", False),
    ("5 apples and 3 pears", "3 apples and 5 pears", False),
    ("x>3 and x<5", "(3,5)", True),
    ("x>3 or x<1", "(3,5)", False),
    ("1.24e-6", "1.24e-8", False),
    ("10m", "10", False),
    ("10 m", "10", True),
    ("3 m/s", "3", True),
    ("3x", "3", False),
    ("5.001", "5", False),
    ("5", "5.001", False),
    ("99.99", "100", False),
    ("12.53", "12.5", False),
    ("0.1251", "1/8", False),
    ("3.04", "0.0304", True),
    ("50", "0.5", False),
    ("1", "100", False),
    ("10, 4, -2", "4, 10, -2", False),
    ("2, 4, 3", "2, 3, 4", True),
    ("1, 2", "1, 2, 3", False),
    ("1, 1", "1", True),
    ("1, 2", "1", False),
    ("a, b", "b, a", True),
    ("0.0535714285714164", "\\frac{3}{56}", True),
    ("1+2,2+1", "3,3", True),
    ("\\frac{v_{0}}{r_{0}} \\frac{1}{(1+r/r_{0})^{3/2}}", "v_0 (\\frac{r_0}{r+r_0})^{0.5}/(r+r_0)", True),
    ("\\left(x-2\\right)\\left(x+2\\right)", "x^2-4", True),
    ("x^2-4x", "x^2-4", False),
    ("2x+4y=6", "x+2y=3", True),
    ("2x+4y=7", "x+2y=3", False),
    ("2x+4y>6", "x+2y>3", True),
    ("2x+4y<6", "x+2y>3", False),
]


def cases():
    public = Path(__file__).with_name("public_cases.txt").read_text(encoding="utf-8")
    for line in (CASES.strip() + "\n" + public.strip()).splitlines():
        prediction, gold, verdict = line.split(" | ")
        yield prediction.strip(), gold.strip(), verdict.strip() == "T"
    yield from MORE


@pytest.mark.parametrize(("prediction", "gold", "expected"), list(cases()))
def test_grade(grader, prediction, gold, expected):
    assert grader.grade([prediction], [gold]) == [expected]


def test_a_batch_is_graded_as_its_cases(grader):
    predictions, golds, expected = zip(*cases())
    assert grader.grade(predictions, golds) == list(expected)
