using System.Text;
using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>The KEY=value pairs of one event. Bounded as in the kernel: 64 variables, 2,048 bytes.</summary>
public sealed class UeventVariables
{
    private const int MaxVariables = 64;
    private const int MaxBytes = 2048;
    private KeyValuePair<string, string>[] _pairs = [];
    private int _count;
    private int _bytes;

    /// <summary>Adds a variable.</summary>
    /// <param name="key">Upper-case name without '='.</param>
    /// <param name="value">The value.</param>
    /// <exception cref="VirtbusException">ENOMEM, as the kernel answers: too many variables or too long.</exception>
    public void Add(string key, string value)
    {
        ArgumentException.ThrowIfNullOrEmpty(key);
        ArgumentNullException.ThrowIfNull(value);
        _bytes += key.Length + Encoding.UTF8.GetByteCount(value) + 2;
        if (_count == MaxVariables || _bytes > MaxBytes)
            throw new VirtbusException(Errno.ENOMEM, $"Event variable {key}={value} is one too many: an event holds {MaxVariables} variables in {MaxBytes} bytes.");
        // Most events have one or two.
        if (_count == _pairs.Length)
            Array.Resize(ref _pairs, Math.Max(2, _count * 2));
        _pairs[_count++] = new(key, value);
    }

    internal KeyValuePair<string, string>[] ToArray() => _pairs.AsSpan(0, _count).ToArray();

    /// <summary>Empties it, so that it serves the next event.</summary>
    internal void Clear() => _count = _bytes = 0;
}
