import { describe, expect, it } from "vitest";
import { asked, ExpectedAnswers, type Asked } from "../../../src/proxy/forward/expected-answers.ts";

const type = (letter: string): number => letter.charCodeAt(0);

function answersTo(...kinds: (keyof typeof asked)[]): { answers: ExpectedAnswers; undone: string[] } {
  const undone: string[] = [];
  const answers = new ExpectedAnswers((kind: Asked) => void undone.push(String(kind)));
  for (const kind of kinds) answers.push(asked[kind]);
  return { answers, undone };
}

describe("answers that are expected", () => {
  it("are the client's or ours", () => {
    const { answers } = answersTo("ourClose", "ourParse", "parse", "bind", "describe", "execute", "sync");
    expect([..."3112TCZ"].map((letter) => answers.answer(type(letter)))).toEqual([
      "drop",
      "drop",
      "pass",
      "pass",
      "pass",
      "pass",
      "pass",
    ]);
    expect(answers.size).toBe(0);
    expect(answers.outstandingReady).toBe(0);
  });

  it("belong to a simple query until its ReadyForQuery", () => {
    const { answers } = answersTo("query", "query");
    expect([..."TDCTCICZ"].every((letter) => answers.answer(type(letter)) === "pass")).toBe(true);
    expect(answers.outstandingReady).toBe(1);
  });

  it("end with an error, up to the next Sync", () => {
    const { answers } = answersTo("parse", "bind", "execute", "sync", "query");
    answers.answer(type("E"));
    expect([answers.next, answers.isSkipping, answers.outstandingReady]).toEqual([asked.sync, false, 2]);
  });

  it("do not come at all behind an error without a Sync", () => {
    const { answers } = answersTo("parse", "query");
    answers.answer(type("E"));
    expect([answers.size, answers.isSkipping]).toEqual([0, true]);
    answers.push(asked.query);
    expect(answers.size).toBe(0);
    answers.push(asked.sync);
    expect([answers.size, answers.isSkipping]).toEqual([1, false]);
  });

  it("that nobody has asked for are wrong", () => {
    for (const letter of "123nTCIsVZ") expect(answersTo().answers.answer(type(letter)), letter).toBe("wrong");
    expect(answersTo("bind").answers.answer(type("1"))).toBe("wrong");
    expect(answersTo("sync").answers.answer(type("C"))).toBe("wrong");
  });

  it("are followed through any number", () => {
    const { answers } = answersTo();
    for (let at = 0; at < 5_000; at += 1) answers.push(asked.query);
    for (let at = 0; at < 5_000; at += 1) expect(answers.answer(type("Z"))).toBe("pass");
    expect(answers.size).toBe(0);
  });
});
