namespace Virtbus.Platform;

/// <summary>
/// How modules are called: <c>-</c> and <c>_</c> are one, as for modprobe. A file, and so a module, has the one with <c>_</c>; a driver often is
/// called as its module, with <c>-</c>.
/// </summary>
public static class ModuleName
{
    /// <summary>The name that a module's file has.</summary>
    /// <param name="name">A name as a person writes it, or a driver's.</param>
    public static string Of(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        return name.Replace('-', '_');
    }

    /// <summary>What the driver of a module is called by custom, as long as nobody has asked the module itself.</summary>
    /// <param name="module">A module's name.</param>
    public static string DriverOf(string module)
    {
        ArgumentNullException.ThrowIfNull(module);
        return module.Replace('_', '-');
    }

    /// <summary>Looks a module up among others by what a person calls it: as it is written, else as the file is called.</summary>
    /// <typeparam name="T">What is known of a module.</typeparam>
    /// <param name="modules">The modules by their names.</param>
    /// <param name="name">What the person wrote.</param>
    /// <returns>Null when there is none.</returns>
    public static T? Find<T>(IReadOnlyDictionary<string, T> modules, string name)
        where T : class
    {
        ArgumentNullException.ThrowIfNull(modules);
        ArgumentNullException.ThrowIfNull(name);
        return modules.GetValueOrDefault(name) ?? modules.GetValueOrDefault(Of(name));
    }
}
