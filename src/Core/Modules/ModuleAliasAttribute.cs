namespace Virtbus.Core;

/// <summary>
/// Declares which devices a driver of the assembly serves, as an alias pattern (<c>*</c>, <c>?</c>, <c>[…]</c>). The index of modules reads
/// it from the assembly's metadata; no code of the module runs for that. Buses derive attributes that are id-table entries too.
/// </summary>
/// <param name="alias">The pattern, for example <c>auxiliary:merlin_core.net</c>.</param>
[AttributeUsage(AttributeTargets.Assembly | AttributeTargets.Class, AllowMultiple = true, Inherited = false)]
public class ModuleAliasAttribute(string alias) : Attribute
{
    /// <summary>The pattern.</summary>
    public string Alias { get; } = alias;
}
