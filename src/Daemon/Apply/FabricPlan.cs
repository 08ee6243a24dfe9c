namespace Virtbus.Daemon.Apply;

/// <summary>What has to be done to bring a running fabric to a manifest: in words, and as steps. Made for one moment of the fabric.</summary>
internal sealed class FabricPlan
{
    private readonly List<string> _changes = [];
    private readonly List<Step> _away = [];
    private readonly List<Step> _made = [];

    /// <summary>A change an object: <c>+</c> what comes, <c>-</c> what goes, <c>~</c> what is changed.</summary>
    public IReadOnlyList<string> Changes => _changes;

    /// <summary>The steps in their order: what goes, the newest first, before what comes.</summary>
    public IEnumerable<Step> Steps => [.. _away, .. _made];

    /// <summary>Says a change.</summary>
    public void Say(char sign, string what) => _changes.Add($"{sign} {what}");

    /// <summary>Adds a step that takes something away.</summary>
    public void TakeAway(string title, Func<CancellationToken, ValueTask> act) => _away.Add(new Step(title, act));

    /// <summary>Adds a step that makes something.</summary>
    public void Make(string title, Func<CancellationToken, ValueTask> act) => _made.Add(new Step(title, act));

    /// <summary>A step.</summary>
    /// <param name="Title">What it does, for who waits.</param>
    /// <param name="Act">Does it.</param>
    internal sealed record Step(string Title, Func<CancellationToken, ValueTask> Act);
}
