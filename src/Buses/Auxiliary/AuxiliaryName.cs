using System.Collections.Concurrent;
using Virtbus.Platform;

namespace Virtbus.Buses.Auxiliary;

/// <summary>The two halves of a match name, checked and joined once however many devices share them.</summary>
internal sealed class AuxiliaryName
{
    // AUXILIARY_NAME_SIZE of Linux, which counts a closing NUL.
    public const int MaxLength = 39;

    private AuxiliaryName(string matchName)
    {
        MatchName = matchName;
        Modalias = AuxiliaryBus.ModaliasPrefix + matchName;
    }

    public string MatchName { get; }

    public string Modalias { get; }

    /// <summary>The name of two halves, from what a bus knows already or checked and made.</summary>
    public static AuxiliaryName Get(ConcurrentDictionary<(string Module, string Name), AuxiliaryName> known, string module, string name)
    {
        ArgumentNullException.ThrowIfNull(module);
        ArgumentNullException.ThrowIfNull(name);
        if (known.TryGetValue((module, name), out var there))
            return there;
        Check("module", module, name);
        Check("part", name, name);
        var text = $"{module}.{name}";
        if (text.Length > MaxLength)
            throw new VirtbusException(Errno.EINVAL, $"Auxiliary name '{text}' has {text.Length} characters. Module and name have at most {MaxLength} together.");
        return known.GetOrAdd((module, name), new AuxiliaryName(text));
    }

    private static void Check(string what, string value, string name)
    {
        if (value.Length == 0)
            throw new VirtbusException(Errno.EINVAL, $"Auxiliary device '{name}' has no {what} name. Name its creator's module and the kind of part.");
        if (!value.All(c => char.IsAsciiLetterOrDigit(c) || c is '_' or '-'))
            throw new VirtbusException(Errno.EINVAL, $"Auxiliary {what} name '{value}' is not valid. Use letters, digits, '_' and '-'.");
    }
}
