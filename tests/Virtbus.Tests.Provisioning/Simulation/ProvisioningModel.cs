using Virtbus.Provisioning;

namespace Virtbus.Tests.Provisioning.Simulation;

/// <summary>What is promised of a function that is defined: its values, as text, whether it is to be active, and whether it lasts.</summary>
internal sealed record Facts(string Values, bool IsWanted, bool IsKept)
{
    public static string Text(IEnumerable<KeyValuePair<string, string>> values) =>
        string.Join(' ', values.OrderBy(static v => v.Key, StringComparer.Ordinal).Select(static v => $"{v.Key}={v.Value}"));

    /// <summary>This one with some values changed, as the engine should change them.</summary>
    public Facts With(IEnumerable<KeyValuePair<string, string>> changes)
    {
        var values = new Dictionary<string, string>(ProfileText.ParsePairs(ProfileText.Split(Values)));
        foreach (var (key, value) in changes)
        {
            if (value.Length == 0)
                values.Remove(key);
            else
                values[key] = value;
        }
        return this with { Values = Text(values) };
    }
}

/// <summary>
/// A name and what is known of the function of that name. Requests that overlap come in an order that only the engine knows, so as long as some go on
/// there are several possible facts; when the last has ended one of them must be true. Null: no such function.
/// </summary>
internal sealed class NameModel(string name)
{
    private readonly List<Func<Facts?, Facts?>> _going = [];
    private readonly HashSet<Facts?> _allowed = [];
    private bool _isShared;

    public string Name { get; } = name;

    /// <summary>What is true while nothing goes on.</summary>
    public Facts? Facts { get; private set; }

    public bool IsIdle => _going.Count == 0;

    /// <summary>Why it need not be back although its provider is.</summary>
    public bool IsExcused { get; set; }

    /// <summary>What may be kept at this moment: the old or the new.</summary>
    public HashSet<Facts?> Possible
    {
        get
        {
            HashSet<Facts?> all = [Facts, .. _allowed];
            for (var i = 0; i < _going.Count; i++)
            {
                foreach (var request in _going)
                    all.UnionWith(all.Select(request).ToList());
            }
            return all;
        }
    }

    public Func<Facts?, Facts?> Begin(Func<Facts?, Facts?> request)
    {
        _isShared = _going.Count > 0;
        if (!_isShared)
            _allowed.Clear();
        _going.Add(request);
        return request;
    }

    /// <summary>A request has ended. Refused, it changed nothing, but for what <paramref name="also"/> says could not be taken back.</summary>
    public void End(Func<Facts?, Facts?> request, bool succeeded, Func<Facts?, Facts?>? also = null)
    {
        _going.Remove(request);
        HashSet<Facts?> old = [Facts, .. _allowed];
        if (_allowed.Count == 0)
            _allowed.Add(Facts);
        if (succeeded)
        {
            // One that goes on still may have had its effect before this one, and says so later.
            var done = old.Concat(_going.SelectMany(g => old.Select(g))).Select(request).ToList();
            if (!_isShared)
                _allowed.Clear();
            _allowed.UnionWith(done);
        }
        if (also is not null)
            _allowed.UnionWith(old.Select(also).ToList());
    }

    /// <summary>Whether it is one that may be; it is the one from then on.</summary>
    public bool Settle(Facts? actual)
    {
        var isRight = _allowed.Contains(actual);
        Facts = actual;
        _allowed.Clear();
        _isShared = false;
        return isRight;
    }

    public string Describe() => string.Join(" or ", _allowed.Select(static f => f?.ToString() ?? "none"));
}
