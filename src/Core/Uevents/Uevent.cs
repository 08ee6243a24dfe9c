using System.Text;

namespace Virtbus.Core;

/// <summary>One event of the fabric, in the kernel's terms and format. Immutable.</summary>
public sealed class Uevent
{
    private readonly KeyValuePair<string, string>[] _variables;
    private readonly string _folder;
    private readonly string _name;

    internal Uevent(long seqnum, UeventAction action, string folder, string name, string subsystem, KeyValuePair<string, string>[] variables)
    {
        Seqnum = seqnum;
        Action = action;
        _folder = folder;
        _name = name;
        Subsystem = subsystem;
        _variables = variables;
    }

    /// <summary>The event's number: each event's is one more than that of the event before it.</summary>
    public long Seqnum { get; }

    /// <summary>What happened.</summary>
    public UeventAction Action { get; }

    /// <summary>The object, as a path below the tree's root.</summary>
    public string DevPath => string.Concat(_folder, "/", _name);

    /// <summary>Bus or class of the object; <c>drivers</c>, <c>bus</c> or <c>module</c> for those.</summary>
    public string Subsystem { get; }

    /// <summary>The variables besides ACTION, DEVPATH, SUBSYSTEM and SEQNUM.</summary>
    public IReadOnlyList<KeyValuePair<string, string>> Variables => _variables;

    /// <summary>The action's word on the wire.</summary>
    public string ActionName => ActionNames[(int)Action];

    internal static string[] ActionNames { get; } = ["add", "remove", "change", "move", "online", "offline", "bind", "unbind"];

    /// <summary>
    /// The bytes that the kernel would multicast: <c>ACTION@DEVPATH</c>, then ACTION, DEVPATH, SUBSYSTEM, the event's variables and SEQNUM,
    /// each ended by a NUL.
    /// </summary>
    public byte[] ToKernelFormat()
    {
        var text = new StringBuilder();
        text.Append(ActionName).Append('@').Append(DevPath).Append('\0');
        foreach (var (key, value) in AllVariables())
            text.Append(key).Append('=').Append(value).Append('\0');
        return Encoding.UTF8.GetBytes(text.ToString());
    }

    /// <summary>Every variable of the message in its order.</summary>
    public IEnumerable<KeyValuePair<string, string>> AllVariables()
    {
        yield return new("ACTION", ActionName);
        yield return new("DEVPATH", DevPath);
        yield return new("SUBSYSTEM", Subsystem);
        foreach (var pair in _variables)
            yield return pair;
        yield return new("SEQNUM", Seqnum.ToString());
    }

    /// <inheritdoc/>
    public override string ToString() => $"{Seqnum} {ActionName}@{DevPath}";
}
